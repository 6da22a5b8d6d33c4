"""Names in the contract: columns, levels, outputs. Standard library only."""

# Number of the contract, in spec.json and in a tag of every version. Raise it if the form or the
# meaning of a spec, a history or a forecast changes. ModelSpec.from_json reads older contracts.
# 2: spec.json holds the number; a model answers at the levels of its spec.
CONTRACT = 2

UNIQUE_ID = "unique_id"
DS = "ds"
Y = "y"
STEP = "step"
MEAN = "mean"
NOTES = "notes"  # remarks of a reply beside its numbers: simulated, truncated, filled in
REFUSED = "refused"  # in a packed reply: series that were not answered, with code and message

HISTORY = (UNIQUE_ID, DS, Y)

# Market covariates: the same value for every series of one session.
MARKET_ABS_RETURN = "market_abs_return"
INDEX_RETURN = "index_return"
MARKET = (MARKET_ABS_RETURN, INDEX_RETURN)

# Covariates of one series and session, known at the close: news and tweets that name the series.
NEWS_COUNT, TWEET_COUNT = "news_count", "tweet_count"
COUNTS = (NEWS_COUNT, TWEET_COUNT)

SECTOR = "sector"  # text; in training data only, never in a request

# A bar; prices on one basis, volume in shares, amount in currency.
VOLUME, AMOUNT = "volume", "amount"
OHLC = ("open", "high", "low", "close")
BAR = (*OHLC, VOLUME, AMOUNT)

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

OUTPUTS = ("frame", "prices", "packed")


def quantile_column(level: float) -> str:
    """Frame column of a quantile: 'q' and the shortest decimal: 0.05 -> 'q0.05'."""
    return f"q{float(level)!r}"


def percent_key(level: float) -> str:
    """Key of a quantile in JSON for people: 'p' and two digits: 0.05 -> 'p05', 0.025 -> 'p02.5'."""
    percent = round(float(level) * 100, 9)
    digits = f"{percent:g}" if percent % 1 else f"{percent:.0f}"
    return f"p0{digits}" if percent < 10 else f"p{digits}"
