"""How fast it runs, and beside what: the measuring behind `woolly bench`, `make bench` and a worker's own benchmark.

limits      what the machine can do at the most: bytes read and int8 products per second
plan        what is measured, as plain commands that every runner understands
runner      carries the commands out with Woolly's forward pass
peer, llama_cpp_runner   the same, by llama.cpp in a process of another Python
comparison  takes turns, and makes medians, ratios and shares of the limit of it
report, bars, roofline   tables and a picture for people
"""
