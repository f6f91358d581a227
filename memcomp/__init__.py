"""How much text fits into the input vectors of a language model?"""
