"""Class data: reading, checking, splitting, freezing, encoding and packing. No torch in here."""
