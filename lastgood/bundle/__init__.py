"""What is released: the manifest, the store of its parts, the formats that may be stored, files for other machines."""
