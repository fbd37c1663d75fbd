"""Ground floor: errors for people, files that are whole or absent, hashing, optional packages, devices."""
