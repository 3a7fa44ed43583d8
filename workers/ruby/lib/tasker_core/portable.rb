# frozen_string_literal: true

require "json"

module TaskerCore
  # What JSON can carry to every language, and where a value can't.
  module Portable
    MAX_INTEGER = 2**53
    # The worker's own limit is lower, and configurable; this one keeps the encoder within its stack.
    MAX_DEPTH = 256

    # Values are bounded before, and it calls nothing of the user's, so one serves all threads.
    GENERATOR = JSON::State.new(max_nesting: 0)
    private_constant :GENERATOR

    # The message begins with what was to be encoded and the JSON pointer of the value.
    class NotPortable < Error; end

    module_function

    # The value as JSON text, exactly; raises NotPortable where that can't be said.
    def encode(what, value)
      GENERATOR.generate(plain(what, value, [], {}.compare_by_identity))
    rescue SystemStackError, NoMemoryError
      raise NotPortable, "#{what} is too deep or too large"
    end

    # The hash with text as keys, so that a symbol takes the place of the text that says the same.
    def named(hash)
      hash.to_h.transform_keys(&:to_s)
    end

    # The value of plain types, so that the encoder calls no code of the value's. `path` leads to the value, `above` are
    # those that it is in.
    def plain(what, value, path, above)
      case value
      when NilClass, TrueClass, FalseClass then value
      when String, Symbol then text(what, value.to_s, path)
      when Integer then integer(what, value, path)
      when Float then float(what, value, path)
      else nested(what, value, path, above)
      end
    end

    def nested(what, value, path, above)
      refuse(what, path.first(8), "is nested deeper than #{MAX_DEPTH} levels") if path.size > MAX_DEPTH
      opened = opened(value)
      refuse(what, path, "contains itself") if above.key?(value)
      above[value] = true
      case opened
      when Hash then object(what, opened, path, above)
      when Array then opened.each_with_index.map { |item, at| inner(what, item, at, path, above) }
      else refuse(what, path, "is of type #{Outcome.class_name(value)}, which JSON has not; convert it first")
      end
    ensure
      above.delete(value)
    end

    # Structs are what their members say, and so is Data, where Ruby has it.
    def opened(value)
      is_record = Struct === value || (defined?(::Data) && ::Data.respond_to?(:define) && ::Data === value)
      is_record ? value.to_h : value
    end

    def object(what, value, path, above)
      value.each_pair.with_object({}) do |(key, item), plain|
        unless String === key || Symbol === key
          refuse(what, path, "has the key #{key.inspect} of type #{Outcome.class_name(key)}; keys are text")
        end
        name = text(what, key.to_s, path)
        refuse(what, path, "has the key #{name.inspect} twice, as text and as a symbol") if plain.key?(name)
        plain[name] = inner(what, item, name, path, above)
      end
    end

    def inner(what, item, key, path, above)
      path.push(key)
      inner = plain(what, item, path, above)
      path.pop
      inner
    end

    def text(what, value, path)
      said = String.new(value)
      said = said.encode(Encoding::UTF_8) unless said.encoding == Encoding::BINARY && said.ascii_only?
      said.force_encoding(Encoding::UTF_8)
      refuse(what, path, "is text with bytes that are not UTF-8") unless said.valid_encoding?
      said
    rescue EncodingError
      refuse(what, path, "is text in #{value.encoding}, which can't be said in UTF-8; encode bytes as text")
    end

    def integer(what, value, path)
      return value if value.abs <= MAX_INTEGER

      refuse(what, path, "is an integer beyond ±2^53, which some languages would round; say it as text")
    end

    def float(what, value, path)
      return value if value.finite?

      refuse(what, path, "is #{value}, which is no number in JSON; say it as null or as text")
    end

    def refuse(what, path, why)
      pointer = path.map { |key| "/#{key.to_s.gsub("~", "~0").gsub("/", "~1")}" }.join
      raise NotPortable, "#{what}#{" at #{pointer}" unless pointer.empty?} #{why}"
    end
  end
end
