"""The ops, one file a family. Users import them from `surgery.ops`."""
