"""Talking to GlusterFS without its command line: wire codecs (pure), glusterd and brick clients, libgfapi."""
