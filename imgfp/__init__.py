"""imgfp: find the picture that a picture was made from.

Notebooks wire; the work is here, one subject a module. Read downwards, each uses what is above it:

datatypes                               records and tables that pass between stages
images                                  files to upright RGB, safely; resize, cut, ids
crops, rectangles, boxes, box_signs     pictures pasted inside a query: detectors, and the rule that chooses
own_detectors                           a user's own network, out of a .safetensors or a trusted .pt
sift                                    keypoints and RootSIFT bytes; mirrored and inverted readings
index, voting                           Faiss; hits to candidate references
descriptors, architectures, networks, hashes      one vector a picture; the field's own models
readings, matching, guided, geometry    matches of two pictures, and one map that they agree on
agreement, maps, transforms, evidence   pixels that agree; which map; the map in words; all evidence of a pair
fusion, evaluation, thresholds, losses  one score a pair; how good; where the losses are
edits (warps, placing, tones, drawing), painting   seeded edits with exact geometry; painted pictures
store, formats, cluster, params, decisions, corpus artefacts, foreign files, Dask, parameter files, reviews
stages                                  the work of one shard of each notebook
training                                what notebooks 20 and 21 call
viz, results, report, widgets           figures, a finished run, its page, its browsers
run, doctor, __main__                   the command line
"""

__version__ = "0.1.0"
