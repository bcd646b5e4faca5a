"""The report of a run: one self-contained HTML page that explains it to somebody who was not there.

`record` says what is shown, the sections make HTML of it, `page` puts them into one file. rlloop.recipes.run_record
reads a run directory, because that room knows how the files of a run are read.
"""
