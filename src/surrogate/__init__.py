"""What is expected of recipes nobody has tried: pure functions of arrays, guided by kinship.

questions   how a model's answers make its scores; a model's answers, kept in a file (numpy alone)
"""
