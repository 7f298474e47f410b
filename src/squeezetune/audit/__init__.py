"""What may be wrong with photos: found, told, and carried out in a new table."""
