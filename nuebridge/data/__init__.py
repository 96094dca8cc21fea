"""What is trained and scored on: utterances, and the manifests, data sets and shards they come from."""

from nuebridge.data.manifest import Utterance, read_manifest

__all__ = ["Utterance", "read_manifest"]
