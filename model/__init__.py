"""The protocol of docs/protocol.md as a model that a machine can search through, state by state.

A model is a handful of moves, one function each, named as on that page. Every guard of a move is a named constant and
can be dropped: the search must then find a broken invariant, or the guard would be superfluous. Pure standard library.

    python -m model                 every model, every invariant, and that everything ends once faults stop
    python -m model --mutants       each guard dropped in turn: what breaks, and after how many steps
    python -m model --trace REWAKE  the shortest way to that break (any part of a model's or guard's name)
"""
