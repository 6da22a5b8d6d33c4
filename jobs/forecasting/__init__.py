"""Forecasts of a data set: latest history in; table, file or chart out."""
