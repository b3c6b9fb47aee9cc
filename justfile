# The one list of recipes: README, CONTRIBUTING and CI call these.
default:
    @just --list
