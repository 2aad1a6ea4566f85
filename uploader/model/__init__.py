"""The nouns of the field, the settings, and the backend's contract: what everything else speaks of."""
