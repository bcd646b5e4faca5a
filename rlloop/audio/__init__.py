"""Audio on disk and in memory: reading, resampling, loudness."""
