"""How keys and values lie in a KV block, one file for floats and one for quants: filing, scoring, adding up."""
