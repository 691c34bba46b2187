"""The work of one shard of each numbered notebook, and the list of shards still to do.

Each room has a `*_tasks` function (which shards, made from what) and the function that
`cluster.map_shards` runs on one of them in a worker process: read, call the pure functions, return.
"""
