"""KadaluStorages that are right and that are wrong: what the API server and the operator must both make of them."""
