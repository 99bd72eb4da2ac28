"""How fast pairs are trained on whose sides share the first 70 % of their tokens: our trainer against TRL's."""

from beside_trl import PAIRS, compare, group

if __name__ == "__main__":
    compare("reward_training_pairs", [pair for number in range(PAIRS) for pair in group(number, [6])])
