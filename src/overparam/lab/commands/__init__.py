"""The subcommands of `overparam`, one file each."""
