"""`python -m woolly_api.cli`: the same as `woolly`, for an interpreter that is known and a PATH that is not."""

from woolly_api.cli import main

main()
