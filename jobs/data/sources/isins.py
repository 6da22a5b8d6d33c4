"""ISINs and names of the built-in stocks, typed in: no wheel has them.

A US stock's ISIN is `US`, its CUSIP and a check digit; CUSIPs are those that the issuers' filings
with the SEC name. A stock that changed its CUSIP has the one of its last built-in session: GE that
after the reverse split of 2021, GOOG that of Google's class A shares of 2013. Indices have none.
"""

BUILTIN = {  # symbol: (ISIN, name)
    "AAPL": ("US0378331005", "Apple Inc."),
    "AMD": ("US0079031078", "Advanced Micro Devices, Inc."),
    "BAC": ("US0605051046", "Bank of America Corporation"),
    "BBY": ("US0865161014", "Best Buy Co., Inc."),
    "CVX": ("US1667641005", "Chevron Corporation"),
    "FB": ("US30303M1027", "Facebook, Inc."),
    "GE": ("US3696043013", "General Electric Company"),
    "GOOG": ("US38259P5089", "Google Inc."),
    "HD": ("US4370761029", "The Home Depot, Inc."),
    "IBM": ("US4592001014", "International Business Machines Corporation"),
    "JNJ": ("US4781601046", "Johnson & Johnson"),
    "JPM": ("US46625H1005", "JPMorgan Chase & Co."),
    "KO": ("US1912161007", "The Coca-Cola Company"),
    "LLY": ("US5324571083", "Eli Lilly and Company"),
    "MRK": ("US58933Y1055", "Merck & Co., Inc."),
    "MSFT": ("US5949181045", "Microsoft Corporation"),
    "PEP": ("US7134481081", "PepsiCo, Inc."),
    "PFE": ("US7170811035", "Pfizer Inc."),
    "PG": ("US7427181091", "The Procter & Gamble Company"),
    "RRC": ("US75281A1097", "Range Resources Corporation"),
    "UNH": ("US91324P1021", "UnitedHealth Group Incorporated"),
    "WMT": ("US9311421039", "Walmart Inc."),
    "XOM": ("US30231G1022", "Exxon Mobil Corporation"),
}
