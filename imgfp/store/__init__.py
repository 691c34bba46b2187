# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every file of a library or a run: written whole, described by a sidecar, read only when sound."""

from imgfp.inference import sha256_of
from imgfp.store.artefacts import (
    REDO,
    RETRY,
    columns_of,
    describe,
    digest_of,
    draw_shards,
    is_current,
    load,
    load_rows,
    load_tables,
    open_h5,
    remove,
    save,
    shards,
    verify_all,
    what_differs,
)
from imgfp.store.catalogue import (
    Catalogue,
    catalogue_table,
    open_catalogue,
    place_of,
    shard_and_row,
    shard_name,
    shard_number,
)
from imgfp.store.features import FeatureLookup, feature_counts
from imgfp.store.fetched import library_folder, refuse_fetched
from imgfp.store.files import (
    StoreError,
    hash_of,
    located,
    make_folder,
    project_path,
    show,
    write_bytes,
    write_csv,
)
from imgfp.store.layout import Collection, IndexFolder, IndexKind, Library, Run
from imgfp.store.locks import is_locked, lock
from imgfp.store.provenance import Origin, origin, produces
from imgfp.store.remote import fetch, publish

__all__ = [
    "REDO",
    "RETRY",
    "Catalogue",
    "Collection",
    "FeatureLookup",
    "IndexFolder",
    "IndexKind",
    "Library",
    "Origin",
    "Run",
    "StoreError",
    "catalogue_table",
    "columns_of",
    "describe",
    "digest_of",
    "draw_shards",
    "feature_counts",
    "fetch",
    "hash_of",
    "is_current",
    "is_locked",
    "library_folder",
    "load",
    "load_rows",
    "load_tables",
    "located",
    "lock",
    "make_folder",
    "open_catalogue",
    "open_h5",
    "origin",
    "place_of",
    "produces",
    "project_path",
    "publish",
    "refuse_fetched",
    "remove",
    "save",
    "sha256_of",
    "shard_and_row",
    "shard_name",
    "shard_number",
    "shards",
    "show",
    "verify_all",
    "what_differs",
    "write_bytes",
    "write_csv",
]
