#include "vocab.h"

#include "errors.h"
#include "log_capture.h"
#include "threads.h"

#include <algorithm>
#include <cstdint>
#include <exception>
#include <iterator>
#include <stdexcept>
#include <string_view>
#include <tuple>
#include <unordered_set>
#include <vector>

// the first byte of a token as RWKV vocabularies escape it, and whether there are more
static std::pair<unsigned char, bool> rwkv_first_byte(const std::string & token) {
    if (token[0] != '\\' || token.size() < 2) {
        return { (unsigned char) token[0], token.size() > 1 };
    }
    if (token[1] == 'x' && token.size() >= 4) {
        return { (unsigned char) strtol(token.substr(2, 2).c_str(), nullptr, 16), token.size() > 4 };
    }
    const char c = token[1];
    return { (unsigned char) (c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c), token.size() > 2 };
}

// llama.cpp looks for the longest token that a text begins with, and without end where there is none
static bool rwkv_has_bytes(const gguf_context * gguf, int64_t tokens) {
    std::unordered_set<int> first, alone;
    for (size_t i = 0; i < gguf_get_arr_n(gguf, tokens); ++i) {
        const std::string token = gguf_get_arr_str(gguf, tokens, i);
        if (!token.empty()) {
            const auto [byte, more] = rwkv_first_byte(token);
            (more ? first : alone).insert(byte);
        }
    }
    return std::all_of(first.begin(), first.end(), [&](int byte) { return alone.count(byte) > 0; });
}

// The first string of an array that stands there before, n where none does. Sorted, by hashes for speed: a set of strings
// takes five times as long, and one of hashes as long as a file wants.
static size_t first_repeated(const gguf_context * gguf, int64_t id, size_t n) {
    std::vector<std::tuple<size_t, std::string_view, size_t>> sorted;
    for (size_t i = 0; i < n; ++i) {
        const std::string_view text = gguf_get_arr_str(gguf, id, i);
        if (!text.empty()) { // llama.cpp gives empty ones names of their own
            sorted.emplace_back(std::hash<std::string_view>()(text), text, i);
        }
    }
    std::sort(sorted.begin(), sorted.end());
    size_t result = n;
    for (size_t i = 1; i < sorted.size(); ++i) {
        if (std::get<1>(sorted[i]) == std::get<1>(sorted[i - 1])) {
            result = std::min(result, std::get<2>(sorted[i]));
        }
    }
    return result;
}

std::string gguf_header_check_vocab(const gguf_header & h) {
    const gguf_context * gguf = h.gguf.get();
    const int64_t tokens = gguf_find_key(gguf, "tokenizer.ggml.tokens");
    if (tokens < 0) {
        return "";
    }
    if (gguf_get_kv_type(gguf, tokens) != GGUF_TYPE_ARRAY || gguf_get_arr_type(gguf, tokens) != GGUF_TYPE_STRING) {
        return "tokenizer.ggml.tokens is not a list of strings";
    }
    const int64_t model = gguf_find_key(gguf, "tokenizer.ggml.model");
    if (model >= 0 && gguf_get_kv_type(gguf, model) == GGUF_TYPE_STRING && gguf_get_val_str(gguf, model) == std::string("rwkv") &&
        !rwkv_has_bytes(gguf, tokens)) {
        return "tokenizer.ggml.tokens has no token for a byte that others begin with";
    }
    const size_t n = gguf_get_arr_n(gguf, tokens);
    const size_t twice = first_repeated(gguf, tokens, n);
    if (twice < n) {
        return "token " + std::to_string(twice) + " of tokenizer.ggml.tokens stands there twice: " +
               gguf_get_arr_str(gguf, tokens, twice);
    }
    // as many of these as there are tokens, or llama.cpp says that an index is out of bounds
    for (const char * key : { "tokenizer.ggml.scores", "tokenizer.ggml.token_type" }) {
        const int64_t id = gguf_find_key(gguf, key);
        if (id >= 0 && (gguf_get_kv_type(gguf, id) != GGUF_TYPE_ARRAY || gguf_get_arr_n(gguf, id) < n)) {
            return std::string(key) + " has fewer entries than the " + std::to_string(n) + " tokens";
        }
    }
    return "";
}

std::string vocab_piece(const llama_vocab * vocab, llama_token token, bool special) {
    std::string piece(64, '\0');
    int32_t n = llama_token_to_piece(vocab, token, piece.data(), (int32_t) piece.size(), 0, special);
    if (n < 0) { // so many
        piece.resize((size_t) -n);
        n = llama_token_to_piece(vocab, token, piece.data(), (int32_t) piece.size(), 0, special);
    }
    piece.resize((size_t) n);
    return piece;
}

// Many vocabularies have llama.cpp split a text by std::regex, of which libstdc++'s calls itself for every character that a match
// goes on by: 335 bytes of stack each. A megabyte takes seconds, one of spaces two minutes with jais-2's, and one of digits
// would have no end with superbpe's (DIGITS in model/token_text.py).
static constexpr size_t STACK_OF_BYTE = 512;
static constexpr size_t MAX_LINE      = 1 << 20;
static constexpr size_t SHORT_LINE    = 1024; // any thread has the stack for it

// How white space beyond ASCII begins in UTF-8, written in more bytes than it needs included, as llama.cpp reads that, too.
static constexpr std::string_view BLANKS[] = { "\xc0", "\xc2\x85", "\xc2\xa0", "\xe0\x80", "\xe0\x82", "\xe1\x9a\x80",
                                               "\xe2\x80", "\xe2\x81\x9f", "\xe3\x80\x80", "\xf0\x80", "\xf0\x81",
                                               "\xf0\x82", "\xf0\x83" };

// Bytes that a match can have: those of a line and, as it goes on over line breaks by white space and "/" alone, those of such a
// run behind it.
static size_t longest_match(const std::string & text) {
    size_t line = 0, match = 0, longest = 0;
    bool goes_on = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const auto c = (unsigned char) text[i];
        if ((c & 0xc0) != 0x80) { // the first byte of a character
            const auto begins = [&](std::string_view blank) { return text.compare(i, blank.size(), blank) == 0; };
            goes_on = c <= ' ' || c == '/' || (c >= 0xc0 && std::any_of(std::begin(BLANKS), std::end(BLANKS), begins));
        }
        line    = c == '\n' ? 0 : line + 1;
        match   = goes_on ? match + 1 : line;
        longest = std::max(longest, match);
    }
    return longest;
}

// A space in more bytes than it needs is one to llama.cpp, which asserts that the texts of gemma 4 have none by then.
static bool has_long_space(const std::string & text) {
    return text.find("\xc0\xa0") != text.npos || text.find("\xe0\x80\xa0") != text.npos || text.find("\xf0\x80\x80\xa0") != text.npos;
}

static std::vector<llama_token> tokenized(const llama_vocab * vocab, const std::string & text, bool add_special,
                                          bool parse_special) {
    std::vector<llama_token> tokens(text.size() + 8); // a token is a byte at least, but for what stands around a text
    const auto read = [&] {
        return llama_tokenize(vocab, text.data(), (int32_t) text.size(), tokens.data(), (int32_t) tokens.size(), add_special,
                              parse_special);
    };
    int32_t n = read();
    if (n == INT32_MIN) {
        throw refusal(INVALID_INPUT, "a text of more tokens than can be counted");
    }
    if (n < 0) { // so many
        tokens.resize((size_t) -n);
        n = read();
    }
    tokens.resize((size_t) n);
    return tokens;
}

std::vector<llama_token> vocab_tokenize(const llama_vocab * vocab, const std::string & text, bool add_special, bool parse_special) {
    if (text.size() > (size_t) INT32_MAX - 8) {
        throw refusal(INVALID_INPUT, "a text of " + std::to_string(text.size()) + " bytes, expected less than 2 GB");
    }
    std::vector<llama_token> tokens;
    const auto tokenize = [&] { tokens = tokenized(vocab, text, add_special, parse_special); };
    const bool   split = llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_BPE;
    const size_t match = split ? longest_match(text) : 0;
    if (match > MAX_LINE) {
        throw refusal(INVALID_INPUT, "a line of " + std::to_string(match) + " bytes, expected at most " + std::to_string(MAX_LINE));
    }
    if (split && has_long_space(text)) {
        throw refusal(INVALID_INPUT, "a text with a space of several bytes, which is no UTF-8");
    }
    try {
        guarded([&] { match <= SHORT_LINE ? tokenize() : run_with_stack(match * STACK_OF_BYTE, tokenize); });
    } catch (const std::logic_error & e) { // bytes beyond U+10FFFF, or that have no token
        throw refusal(INVALID_INPUT, std::string("a text that the vocabulary cannot tokenize: ") + e.what());
    }
    return tokens;
}

int32_t vocab_tokenize_as_llama(const llama_vocab * vocab, const char * text, int32_t text_len, llama_token * tokens,
                                int32_t n_tokens_max, bool add_special, bool parse_special) {
    try {
        const auto found = vocab_tokenize(vocab, { text, (size_t) text_len }, add_special, parse_special);
        const auto n     = (int32_t) found.size();
        if (n > n_tokens_max) {
            return -n;
        }
        std::copy(found.begin(), found.end(), tokens);
        return n;
    } catch (const std::exception &) {
        return 0;
    }
}

std::string vocab_fault(const llama_vocab * vocab) {
    const int32_t n = llama_vocab_n_tokens(vocab);
    if (n <= 0 || llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return "it has no vocabulary";
    }
    // every byte that a text can have, alone and after others, is asked for: llama.cpp looks for the tokens of bytes when a text
    // needs them
    std::string text;
    for (int byte = 1; byte < 256; ++byte) {
        text += (char) byte;
        text += ' ';
    }
    log_capture capture; // an assertion is an exception meanwhile
    try {
        tokenized(vocab, text, true, true);
        char piece[64];
        for (llama_token token : { 0, n / 2, n - 1 }) {
            llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
        }
    } catch (const std::exception & e) {
        return std::string("its vocabulary cannot tokenize every text: ") + e.what();
    }
    return "";
}
