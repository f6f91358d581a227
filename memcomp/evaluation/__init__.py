"""What a memory holds: decoding, records, tables and figures."""
