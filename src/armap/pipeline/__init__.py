"""The stages, in order: collect, synthesize, train, plan, evaluate, report."""
