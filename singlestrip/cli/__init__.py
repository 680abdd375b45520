"""The command line: parser, options, subcommands and streams. Importing it imports no torch."""
