"""What is expected of recipes that were never tried: pure functions of arrays, guided by kinship.

Its modules are imported by name (`questions` needs numpy alone, the others torch):

    space = Space(directions, blocks, grams)                      # weights by direction and block, and their geometry
    process = fit(space, recipes, answers, groups=…)              # a Gaussian process over every answer
    best = choose(process, scorer := Scorer(questions), average(weights))
    proposed = propose(process, scorer, average(weights), Climb(), centre=best, seed=0, count=4)

    questions   how a model's answers make its scores, and a file of them
    space       recipes, and inner products of what they add to the base
    kernel      of recipes, from these inner products
    likelihood  which hyperparameters make the answers likely
    process     the answers that are expected of a recipe, and how surely
    derivatives what derivatives of scores tell of answers
    scoring     what expected answers are worth
    objectives  what a search is to raise
    proposals   the recipes to make next
"""
