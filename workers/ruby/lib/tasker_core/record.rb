# frozen_string_literal: true

module TaskerCore
  # An object that came as JSON: a Hash whose keys, which are text, are methods too: `task.status` is `task["status"]`.
  class Record < Hash
    def respond_to_missing?(name, include_private = false)
      key?(name.to_s) || super
    end

    def method_missing(name, *arguments)
      arguments.empty? ? fetch(name.to_s) { super } : super
    end
  end
end
