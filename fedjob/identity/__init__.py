"""The parties of a federation: their keys, the roster, enrolment and logins."""
