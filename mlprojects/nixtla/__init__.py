"""Networks of NeuralForecast (Nixtla) behind the contract."""
