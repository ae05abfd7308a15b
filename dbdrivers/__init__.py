"""SQL, NoSQL and AAA drivers, one back-end a file."""
