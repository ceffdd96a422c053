"""The bands of PASTIS, in the order in which its arrays hold them."""

PASTIS_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
