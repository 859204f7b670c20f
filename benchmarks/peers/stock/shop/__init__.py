"""A dead-letter queue as the quick starts of Django, REST framework and django-rq lead to it, untuned."""
