"""Every trap of sending by HTTP: a row is never sent twice, and is called what it came to.

The oracle is the billing server's log of complete requests: each test that posts compares the verdicts with it.
"""
