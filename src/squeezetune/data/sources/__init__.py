"""Where images come from: folders, archives, tables, arrays, Parquet, WebDataset, memory."""
