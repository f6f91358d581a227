"""What a run leaves on disk, how it resumes, and how processes share it."""
