"""COCO's files: JSON, masks, PNG files of ids, categories, conversion, merging and scores."""
