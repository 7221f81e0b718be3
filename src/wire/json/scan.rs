//! JSON tokens (RFC 8259) from a slice. Strict about syntax, lenient about surrogates; no recursion.

use std::borrow::Cow;

use super::JsonError;

pub(super) struct Scanner<'a> {
    buf: &'a [u8],
    pos: usize,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(buf: &'a [u8]) -> Self {
        Scanner { buf, pos: 0 }
    }

    pub(super) fn pos(&self) -> usize {
        self.pos
    }

    fn syntax<T>(&self) -> Result<T, JsonError> {
        Err(JsonError::Syntax(self.pos))
    }

    /// The first byte of the next token, which stays unread.
    pub(super) fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.buf.get(self.pos) {
            self.pos += 1;
        }
        self.buf.get(self.pos).copied()
    }

    pub(super) fn take_if(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.pos += usize::from(found);
        found
    }

    /// A punctuation that must be here.
    pub(super) fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.take_if(byte) { Ok(()) } else { self.syntax() }
    }

    pub(super) fn end(&mut self) -> Result<(), JsonError> {
        if self.peek().is_none() { Ok(()) } else { self.syntax() }
    }

    /// Is there one more element before `close`? Reads the comma between two, or the `close`.
    pub(super) fn more(&mut self, first: &mut bool, close: u8) -> Result<bool, JsonError> {
        let was_first = std::mem::replace(first, false);
        if self.take_if(close) {
            return Ok(false);
        }
        if !was_first {
            self.expect(b',')?;
        }
        Ok(true)
    }

    /// The key of a member, and its colon.
    pub(super) fn key(&mut self) -> Result<Cow<'a, [u8]>, JsonError> {
        let key = self.string()?;
        self.expect(b':')?;
        Ok(key)
    }

    pub(super) fn literal(&mut self, word: &[u8]) -> bool {
        self.peek();
        let found = self.buf[self.pos..].starts_with(word);
        if found {
            self.pos += word.len();
        }
        found
    }

    /// Exactly this word as a string.
    pub(super) fn quoted(&mut self, word: &str) -> bool {
        self.peek();
        let rest = self.buf[self.pos..].strip_prefix(b"\"").and_then(|rest| rest.strip_prefix(word.as_bytes()));
        let found = rest.is_some_and(|rest| rest.first() == Some(&b'"'));
        if found {
            self.pos += word.len() + 2;
        }
        found
    }

    /// The bytes between the quotes, unescaped. Not checked for UTF-8: the walker does that, at the cost of a span.
    pub(super) fn string(&mut self) -> Result<Cow<'a, [u8]>, JsonError> {
        self.expect(b'"')?;
        let start = self.pos;
        self.plain();
        if self.buf.get(self.pos) == Some(&b'"') {
            self.pos += 1;
            return Ok(Cow::Borrowed(&self.buf[start..self.pos - 1]));
        }
        let mut text = self.buf[start..self.pos].to_vec();
        loop {
            match self.buf.get(self.pos) {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => {
                    self.pos += 1;
                    self.escape(&mut text)?;
                }
                _ => return self.syntax(),
            }
            let start = self.pos;
            self.plain();
            text.extend_from_slice(&self.buf[start..self.pos]);
        }
    }

    /// Steps to the next byte of a string that has a meaning, or is not allowed.
    fn plain(&mut self) {
        let rest = &self.buf[self.pos..];
        self.pos += rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..0x20)).unwrap_or(rest.len());
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), JsonError> {
        let Some(&byte) = self.buf.get(self.pos) else { return self.syntax() };
        let plain = match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                self.pos += 1;
                let c = self.code_point()?;
                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return self.syntax(),
        };
        self.pos += 1;
        text.push(plain);
        Ok(())
    }

    /// Behind `\u`. Half a surrogate pair becomes U+FFFD.
    fn code_point(&mut self) -> Result<char, JsonError> {
        let unit = self.hex4()?;
        if let Some(c) = char::from_u32(unit) {
            return Ok(c);
        }
        if unit < 0xdc00 && self.buf[self.pos..].starts_with(b"\\u") {
            let before = self.pos;
            self.pos += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                let joined = 0x1_0000 + ((unit - 0xd800) << 10 | (low - 0xdc00));
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.pos = before;
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.buf.get(self.pos).and_then(|&b| char::from(b).to_digit(16));
            let Some(digit) = digit else { return self.syntax() };
            value = value << 4 | digit;
            self.pos += 1;
        }
        Ok(value)
    }

    /// The text of a number.
    pub(super) fn number(&mut self) -> Result<&'a str, JsonError> {
        self.peek();
        let rest = &self.buf[self.pos..];
        let len = number_len(rest);
        match std::str::from_utf8(&rest[..len]) {
            Ok(text) if len > 0 => {
                self.pos += len;
                Ok(text)
            }
            _ => self.syntax(),
        }
    }

    /// Steps over one value of any kind that opens at most `max_depth` brackets within each other.
    pub(super) fn skip(&mut self, max_depth: usize) -> Result<(), JsonError> {
        // Closing bracket and "nothing read yet" of everything open.
        let mut open: Vec<(u8, bool)> = Vec::new();
        loop {
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    if open.len() >= max_depth {
                        return Err(JsonError::TooDeep(self.pos));
                    }
                    self.pos += 1;
                    // '{' and '}', as '[' and ']', are two apart.
                    open.push((bracket + 2, true));
                }
                Some(b'"') => drop(self.string()?),
                Some(b'-' | b'0'..=b'9') => drop(self.number()?),
                _ if self.literal(b"null") || self.literal(b"true") || self.literal(b"false") => {}
                _ => return self.syntax(),
            }
            loop {
                let Some((close, first)) = open.last_mut() else { return Ok(()) };
                let close = *close;
                if self.more(first, close)? {
                    if close == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }
}

/// Length of the JSON number at the start of `text`; 0 if there is none.
pub(super) fn number_len(text: &[u8]) -> usize {
    let digits = |from: usize| text[from..].iter().take_while(|b| b.is_ascii_digit()).count();
    let mut at = usize::from(text.first() == Some(&b'-'));
    match digits(at) {
        0 => return 0,
        n if n > 1 && text[at] == b'0' => return 0,
        n => at += n,
    }
    if text.get(at) == Some(&b'.') {
        match digits(at + 1) {
            0 => return 0,
            n => at += 1 + n,
        }
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let sign = usize::from(matches!(text.get(at + 1), Some(b'+' | b'-')));
        match digits(at + 1 + sign) {
            0 => return 0,
            n => at += 1 + sign + n,
        }
    }
    at
}
