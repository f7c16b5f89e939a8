"""The operator: KadaluStorage objects in, StorageClass, ConfigMap entry, conditions and events out."""
