"""An external GlusterFS cluster as Kubernetes storage, with sizes that the kernel of every brick host enforces."""

__version__ = "0.1.0"
