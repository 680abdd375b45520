"""One module a subcommand: arguments in, one library call, files out."""
