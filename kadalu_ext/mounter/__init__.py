"""The process that owns a node's glusterfs clients, one for each storage, and is the volfile server of all of them."""
