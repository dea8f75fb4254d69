"""The service of `corral serve`: a bundle behind HTTP, with live events"""
