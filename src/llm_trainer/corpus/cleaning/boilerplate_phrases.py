"""What web pages in seven languages say around their text: whole lines, and beginnings of lines."""

from __future__ import annotations

import regex

_LINES = (
    # English
    "read more|read more about this|continue reading|read the full article|read full article|learn more|"
    "see more|show more|load more|view more|view all|see all|show less|more info|click here|"
    "click here to read more|skip to content|skip to main content|skip to navigation|jump to navigation|"
    "back to top|go to top|menu|main menu|toggle navigation|search|close|next|previous|home|share|"
    "share this|share this post|share this article|share on facebook|share on twitter|share on linkedin|"
    "share via email|tweet|tweet this|pin it|print|print this|email this|loading|advertisement|"
    "advertisements|sponsored|sponsored content|leave a comment|leave a reply|post a comment|add a comment|"
    "no comments|comments are closed|log in|login|sign in|sign up|log out|register|create an account|"
    "forgot password|forgot your password|subscribe|subscribe now|follow us|contact us|about us|"
    "privacy policy|terms of service|terms of use|terms and conditions|cookie policy|sitemap|site map|"
    "accept|accept all|accept cookies|accept all cookies|reject all|manage cookies|cookie settings|"
    "all rights reserved|add to cart|add to wishlist|related posts|related articles|you may also like|"
    "previous post|next post|previous article|next article|permalink|reply|"
    # German
    "weiterlesen|mehr lesen|mehr erfahren|mehr anzeigen|alle anzeigen|zum inhalt springen|zum inhalt|"
    "nach oben|zurück nach oben|teilen|drucken|anmelden|abmelden|registrieren|einloggen|"
    "passwort vergessen|newsletter|newsletter abonnieren|impressum|datenschutz|datenschutzerklärung|agb|"
    "cookie-einstellungen|alle akzeptieren|alle cookies akzeptieren|alle ablehnen|alle rechte vorbehalten|"
    "kommentar hinterlassen|anzeige|warenkorb|in den warenkorb|startseite|"
    # French
    "lire la suite|en savoir plus|voir plus|voir tout|aller au contenu|aller au contenu principal|"
    "haut de page|partager|imprimer|connexion|se connecter|inscription|s'inscrire|mot de passe oublié|"
    "mentions légales|politique de confidentialité|tout accepter|tout refuser|gérer les cookies|"
    "tous droits réservés|laisser un commentaire|publicité|plan du site|accueil|ajouter au panier|"
    # Spanish and Portuguese
    "leer más|seguir leyendo|ver más|ver todo|saltar al contenido|ir al contenido|volver arriba|compartir|"
    "imprimir|iniciar sesión|registrarse|regístrate|aviso legal|política de privacidad|política de cookies|"
    "aceptar todo|aceptar cookies|rechazar todo|todos los derechos reservados|deja un comentario|publicidad|"
    "mapa del sitio|añadir al carrito|leia mais|continue lendo|saiba mais|ver mais|pular para o conteúdo|"
    "voltar ao topo|compartilhar|entrar|cadastre-se|política de privacidade|aceitar todos|"
    "todos os direitos reservados|deixe um comentário|publicidade|"
    # Italian and Dutch
    "leggi tutto|continua a leggere|scopri di più|mostra altro|vai al contenuto|torna su|condividi|stampa|"
    "accedi|registrati|informativa sulla privacy|accetta tutti|rifiuta tutti|tutti i diritti riservati|"
    "lascia un commento|pubblicità|mappa del sito|lees meer|lees verder|meer weergeven|naar de inhoud|"
    "terug naar boven|delen|inloggen|registreren|privacybeleid|alles accepteren|cookies accepteren|"
    "alle rechten voorbehouden|advertentie"
)
EXACT = frozenset(_LINES.split("|"))
"""Whole lines, in lower case, without the punctuation and arrows around them."""

_MENU = (
    "about|blog|careers|catalog|company|contact|contacts|downloads|events|faq|faqs|features|forum|gallery|get in touch|"
    "help|imprint|jobs|links|media|my account|news|our services|our team|our work|partners|photos|portfolio|press|"
    "press releases|pricing|products|projects|publications|resources|reviews|services|shop|solutions|store|support|"
    "team|testimonials|videos|what we do|who we are|"
    "aktuelles|angebote|karriere|kontakt|leistungen|produkte|referenzen|termine|über uns|unternehmen|veranstaltungen|"
    "à propos|actualités|boutique|contactez-nous|nos services|produits|qui sommes-nous|"
    "contacto|inicio|noticias|nosotros|productos|quiénes somos|servicios|sobre nosotros|tienda|"
    "contato|início|notícias|produtos|quem somos|serviços|sobre|"
    "chi siamo|contatti|notizie|prodotti|servizi|diensten|nieuws|over ons|producten"
)
MENU = EXACT | frozenset(_MENU.split("|"))
"""What is written on the buttons of most sites. By itself any of it may be a heading; a few in one run are a menu."""

PHRASES = regex.compile(
    r"""(?ix)^\W*(?:
      (?:this|our)\ (?:web)?site\ (?:uses|makes\ use\ of)\ cookies
    | (?:we|we\ and\ our\ partners)\ use\ cookies
    | by\ (?:continuing|using|browsing|clicking|closing)\b.{0,80}\b(?:cookies|privacy\ policy|terms)
    | (?:please\ )?enable\ (?:javascript|cookies)\b
    | (?:javascript|cookies)\ (?:is|are|must\ be|has\ been)\ (?:disabled|required|enabled)
    | you\ (?:must|need\ to|have\ to)\ be\ (?:logged|signed)\ in\b
    | (?:log|sign)\ in\ (?:or\ (?:register|sign\ up)|to\ (?:post|leave|add|reply|comment|continue))
    | (?:subscribe|sign\ up)\ (?:to|for)\ (?:our|the|my)\b.{0,40}\b(?:newsletter|mailing\ list|updates|blog
        |feed)
    | (?:follow|like|find)\ us\ on\ (?:facebook|twitter|instagram|x|linkedin|youtube)
    | share\ (?:this|it)?\ ?(?:post|article|page|story|with\ your\ friends)?\ ?(?:on|via|to
        |:)\ .{0,60}\b(?:facebook|twitter|email|linkedin|pinterest|whatsapp|reddit)\b
    | click\ to\ (?:share|email|print)\b
    | (?:copyright|©|\(c\))\ ?(?:©|\(c\))?\ ?(?:\d{4}|by\b).{0,100}$
    | .{0,80}\ball\ rights\ reserved\W*$
    | powered\ by\ (?:wordpress|blogger|drupal|joomla|shopify|squarespace|wix|disqus|phpbb|vbulletin)\b
    | your\ email\ address\ will\ not\ be\ published
    | required\ fields\ are\ marked
    | notify\ me\ of\ (?:new|follow-?up)\ (?:comments|posts)
    | save\ my\ name,\ email
    | (?:diese|unsere)\ (?:web)?(?:seite|site)\ (?:verwendet|nutzt|benutzt)\ cookies
    | wir\ (?:verwenden|nutzen|setzen)\ .{0,30}cookies
    | .{0,80}\balle\ rechte\ vorbehalten\W*$
    | (?:ce|notre)\ site\ (?:web\ )?utilise\ des\ cookies
    | nous\ utilisons\ des\ cookies
    | .{0,80}\btous\ droits\ réservés\W*$
    | (?:este|nuestro)\ sitio\ (?:web\ )?(?:utiliza|usa)\ cookies
    | (?:utilizamos|usamos)\ cookies
    | .{0,80}\btod[oa]s\ (?:los|os)\ (?:derechos|direitos)\ reservados\W*$
    | este\ site\ (?:utiliza|usa)\ cookies
    | questo\ sito\ (?:web\ )?(?:utilizza|usa)\ (?:i\ )?cookie
    | utilizziamo\ (?:i\ )?cookie
    | (?:deze|onze)\ (?:web)?site\ (?:gebruikt|maakt\ gebruik\ van)\ cookies
    | wij\ gebruiken\ cookies
    )"""
)
"""Beginnings and contents of short lines."""

_WORDS = (
    "cookie javascript logged signed log~in sign~in subscribe sign~up us~on share click~to copyright © (c) reserved "
    "powered~by email~address required~fields notify~me save~my~name vorbehalten réservés reservados"
)
PHRASE_WORDS = tuple(word.replace("~", " ") for word in _WORDS.split())
"""One of these is in every text (in lower case) that one of the phrases is in."""
