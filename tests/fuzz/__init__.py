"""Every parser of kadalu-quotad and of the gluster client fed with damaged input: `make fuzz` a million each, `make
test` a few thousand.

`targets` has the parsers and whole inputs, `mutate` damages them. A run is told by its seed, and can be had again.
"""
