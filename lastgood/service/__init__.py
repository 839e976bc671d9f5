"""What a team declares in service.yaml: phases, gates, drift rules, time limits; and that file as frozen in a bundle."""
