"""Operations on dead letters: the API that REST, console, commands and workers call."""
