"""Files of this package's own and of others: opened, written whole, parsed strictly."""
