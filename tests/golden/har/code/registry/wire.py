"""Names that travel: columns, levels, outputs. Standard library only."""

CONTRACT = 1  # raised when a history or a forecast changes its meaning; a tag of every version

UNIQUE_ID = "unique_id"
DS = "ds"
Y = "y"
STEP = "step"
MEAN = "mean"
NOTES = "notes"  # what a reply has to say beside its numbers: simulated, truncated, filled in

HISTORY = (UNIQUE_ID, DS, Y)

# Market covariates: the same value for every series of one session.
MARKET_ABS_RETURN = "market_abs_return"
INDEX_RETURN = "index_return"
MARKET = (MARKET_ABS_RETURN, INDEX_RETURN)

# Covariates of one series and session, known at its close: articles and tweets that name the company.
NEWS_COUNT, TWEET_COUNT = "news_count", "tweet_count"
COUNTS = (NEWS_COUNT, TWEET_COUNT)

SECTOR = "sector"  # text; of the data that models are trained on, never of a request

# A bar; prices on one basis, volume in shares, amount in currency.
VOLUME, AMOUNT = "volume", "amount"
OHLC = ("open", "high", "low", "close")
BAR = (*OHLC, VOLUME, AMOUNT)

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

OUTPUTS = ("frame", "prices", "packed")


def quantile_column(level: float) -> str:
    """Frame column of a quantile: 'q' and the shortest decimal, 0.05 -> 'q0.05'."""
    return f"q{float(level)!r}"
