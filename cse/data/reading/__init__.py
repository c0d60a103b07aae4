"""The path of a source to rows on disk: files, the Hub, memory; columns, cells, the table in the cache."""
