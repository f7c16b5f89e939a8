"""gRPC messages: csi (the Container Storage Interface), pluginregistration (kubelet), mounter (ours)."""
